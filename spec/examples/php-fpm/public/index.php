<?php
echo 'one';
